/*
 * What cppcheck has to know of PostgreSQL's headers, which it does not read:
 * macros that hide control flow or declarations.
 */
#define PG_VERSION_NUM 150000

#define DEBUG1 14
#define LOG 15
#define INFO 17
#define NOTICE 18
#define WARNING 19
#define ERROR 21
#define FATAL 22
#define ereport(level, ...) do { if ((level) >= ERROR) abort(); } while (0)
#define elog(level, ...) ereport(level, 0)

#define PG_TRY(...) do { if (pg_try()) { (void) 0
#define PG_CATCH(...) } else { (void) 0
#define PG_FINALLY(...) } { (void) 0
#define PG_END_TRY(...) } } while (0)
#define PG_RE_THROW() abort()

#define PG_MODULE_MAGIC extern int magic
#define PG_FUNCTION_INFO_V1(name) extern int name##_info
#define PGDLLEXPORT
#define FLEXIBLE_ARRAY_MEMBER
#define pg_attribute_noreturn()
#define pg_attribute_printf(f, a)
#define StaticAssertDecl(condition, message) extern int asserted

#define PG_RETURN_NULL() return 0
#define PG_RETURN_VOID() return 0
#define PG_RETURN_DATUM(x) return (x)
#define PG_RETURN_BOOL(x) return (x)
#define PG_RETURN_INT64(x) return (x)
#define PG_RETURN_TEXT_P(x) return (x)
