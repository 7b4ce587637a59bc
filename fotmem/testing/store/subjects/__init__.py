"""The contract's tests, by subject: one mix-in of `StoreContract` each."""
