"""The suite on the images that people run, where a container engine answers."""
