-- The number that counting gave to a place in a partition: the difference of two such numbers is how many messages are
-- between two places. One number alone means nothing.
CREATE OR REPLACE FUNCTION headwater.subscription_number(_subscription bigint, _partition integer, _position bigint)
RETURNS bigint
LANGUAGE sql STABLE
AS $$
  SELECT coalesce(
    (
      SELECT b.first_number + width_bucket(_position, b.positions)
      FROM headwater.subscription_backlog AS b
      WHERE b.subscription_id = _subscription AND b.partition = _partition AND b.last_position > _position
      ORDER BY b.subscription_id, b.partition, b.last_position
      LIMIT 1
    ),
    (
      SELECT b.first_number + cardinality(b.positions)
      FROM headwater.subscription_backlog AS b
      WHERE b.subscription_id = _subscription AND b.partition = _partition
      ORDER BY b.subscription_id DESC, b.partition DESC, b.last_position DESC
      LIMIT 1
    ),
    0
  )
$$;
