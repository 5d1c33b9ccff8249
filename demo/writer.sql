-- What the application does all day, none of it aware of tenants: record an
-- execution with two details, and touch two old rows.
\set case random(631, 12600)
\set user random(121, 2400)
\set old_execution random(1, 320000)
\set old_detail random(1, 640000)
BEGIN;
INSERT INTO test_executions (case_id, executed_by, status)
VALUES (:case, :user, 'running') RETURNING id AS execution \gset
INSERT INTO test_execution_details (execution_id, step, result)
VALUES (:execution, 1, 'passed'), (:execution, 2, 'passed');
UPDATE test_executions SET status = 'passed', finished_at = now() WHERE id = :execution;
UPDATE test_executions SET finished_at = now() WHERE id = :old_execution;
UPDATE test_execution_details SET output = 'looked at again' WHERE id = :old_detail;
END;
