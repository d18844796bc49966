"""Values as a person reads them."""
