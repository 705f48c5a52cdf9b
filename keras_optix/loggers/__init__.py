"""What people see of a run: records, TensorBoard, the timeline."""
