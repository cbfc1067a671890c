-- Deliveries that were handed out in an answer that was lost are found again by their epoch: who asks for them draws it
-- before. And what a consumer has lost is given to it again as it is, so nothing goes back for it.
DROP FUNCTION IF EXISTS headwater.subscription_claim(bigint, text, integer, bigint, bigint, bigint[], bigint[], boolean);
DROP FUNCTION IF EXISTS headwater.subscription_take(
  bigint, text, bigint, integer, boolean, bigint, integer[], bigint[], integer, bigint
);
DROP FUNCTION IF EXISTS headwater.subscription_look(bigint, text, uuid, bigint, bigint);
DROP FUNCTION IF EXISTS headwater.subscription_rewind(bigint, text, bigint);

-- Many partitions change hands in one statement.
DROP FUNCTION IF EXISTS headwater.subscription_hand_over(bigint, integer, text);
DROP FUNCTION IF EXISTS headwater.subscription_blame(bigint, integer);
