/*
 * Row-level security: what the policies call.
 *
 * Policies made with on_missing => 'error' depend on this function, so that
 * DROP EXTENSION asks for CASCADE as long as there are any; with CASCADE they
 * go with it, and their tables deny all rows.  tenantmig.disable_rls takes
 * them away in order.
 */
CREATE FUNCTION tenantmig.required_setting(name text) RETURNS text
LANGUAGE c STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'tenantmig_required_setting';
COMMENT ON FUNCTION tenantmig.required_setting(text) IS
'The value of a setting; raises an error if it is not set or empty. Called by policies made with on_missing => error';
GRANT EXECUTE ON FUNCTION tenantmig.required_setting(text) TO PUBLIC;
