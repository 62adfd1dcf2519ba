"""The mini scale: a drawn world, and the making of the models that know it."""
