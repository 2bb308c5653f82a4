"""A live session: frames in, calm labels and logs out.

session.py, capture.py      the session and its camera or file; web/browser_camera.py: a browser's
latest_value.py             the slot in which one thread hands frames to another
tracker.py, live_model.py   faces from frame to frame, and the model that judges them
smoothing.py                moving average, margin and vote; smoothing_grid.py: other settings on a recorded session
session_writer.py, log.py   what is written; session_files.py: names and columns of the files
score.py, replay.py         a labelled session scored; the same session under another model
window.py, web/             what a person sees
"""
