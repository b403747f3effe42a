"""Bad input, case by case: how the world is broken, what is run, and what its one sentence must say."""
