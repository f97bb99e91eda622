"""Types shared by the laws of this package."""

from jaxtyping import Array, Float

Scalar = Float[Array, ""] | float | int  # one number
Value = Float[Array, "..."] | float | int  # a number, or an array that is used element by element
Result = Float[Array, "..."]  # of the shape that the arguments broadcast to
