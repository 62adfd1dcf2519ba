"""The methods of the suite, one file each, in a folder for each sort; nothing imports them but `bye.registry`."""
