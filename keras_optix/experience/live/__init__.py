"""Experience from a source that does not wait.

`feeds` says what a feed is, `feed_reader` talks with it, `action_source` answers, `window_builder` makes windows of
what came, `stream` brings them to the learner, `stream_dataset` to `fit`. `recording` keeps all of it, and `replay`
plays it back.
"""
