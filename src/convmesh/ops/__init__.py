"""Operations on arrays: sharded windows (convolution, pooling), boxes, suppression, losses."""
