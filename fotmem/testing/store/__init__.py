"""What `StoreContract` is made of."""
