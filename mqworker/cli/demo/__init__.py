"""`mqworker demo`: the whole queue at work on one screen, judged by what a gateway saw."""
