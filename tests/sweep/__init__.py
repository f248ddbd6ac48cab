"""Every decoder family and every kind of adapter, small, through the product and beside a plain forward pass."""
