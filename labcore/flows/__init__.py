"""The flow itself: blocks, TARFlow, and ml-tarflow's checkpoints in and out."""
