"""What the rewrites calculate with: linear operators, affine maps and branches as data."""
