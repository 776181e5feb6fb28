"""Issue promotions, cart promotions and coupons to a file of customers, and account for every row."""

__version__ = "0.1.0"
