"""The loop of searches and trainings, their settings, one step, their memory."""
