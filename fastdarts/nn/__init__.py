"""What networks are built of: operations, mixed operations, fusion, the base of supernets, the optimizer."""
