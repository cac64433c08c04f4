"""Virtual machines: vhost-user ports, and a front end to drive them."""
