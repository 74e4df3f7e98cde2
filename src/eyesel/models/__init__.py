"""The networks, one architecture a file, each with its frozen config on top. They read no file and no environment."""
