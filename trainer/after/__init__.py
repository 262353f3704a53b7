"""What is done with a run's adapter once there is one: merged into the base model, asked for answers, exported."""
