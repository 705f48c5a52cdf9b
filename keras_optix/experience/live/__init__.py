"""Collects experience from a source that does not wait.

`feeds` defines what a feed is. `feed_reader` reads it in a thread, `action_source` chooses the actions,
`window_builder` builds windows from the items, `stream` delivers windows to the learner, and `stream_dataset` makes the
dataset for `fit`. `recording` writes the items and the actions to a file, and `replay` reads them again.
"""
