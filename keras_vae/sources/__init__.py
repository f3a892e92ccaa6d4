"""Where records come from, one file per word before the colon of `data.source`: each has `find(name, options, log) -> Found`."""
