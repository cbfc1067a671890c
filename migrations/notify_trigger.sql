-- Only on wish. Where write_message notifies too, PostgreSQL drops the second of two equal hints in one transaction.
CREATE TRIGGER headwater_notify
AFTER INSERT ON message_store.messages
REFERENCING NEW TABLE AS appended
FOR EACH STATEMENT
EXECUTE FUNCTION headwater.notify_appended();
