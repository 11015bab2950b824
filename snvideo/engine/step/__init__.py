"""The parts of one optimizer step, which `snvideo.engine.trainer` puts together."""
