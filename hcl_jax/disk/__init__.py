"""Files on a disk, for every room: written whole or not at all, and read with a line where they are bad."""
