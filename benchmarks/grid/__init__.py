"""Every method against every other on one model, over draws of samples and seeds."""
