"""Code that trains the models whose weights ship with the tasks: one loop, and a module per kind of network."""
