"""From folders of videos to a clip index: what is listed, and what the files really hold."""
