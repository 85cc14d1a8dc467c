"""How many cameras a machine carries: the whole road, frames released at their due times."""
