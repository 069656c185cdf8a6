"""How fast the modules are, beside every other Keras MobileNet: `make bench`."""
