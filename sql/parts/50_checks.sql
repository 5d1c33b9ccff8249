/*
 * Looking and reporting.
 */
CREATE FUNCTION tenantmig.report(job bigint, format text DEFAULT 'text') RETURNS text
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'tenantmig_report';
COMMENT ON FUNCTION tenantmig.report(bigint, text) IS
'Summary, records, components, warnings, errors and recommendations of a job, or of all jobs when NULL, as text, json or html';
