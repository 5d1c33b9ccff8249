/*
 * metadata.h
 *		Giving all rows a constant without writing one of them.
 */
#ifndef TENANTMIG_METADATA_H
#define TENANTMIG_METADATA_H

#include "engine/json.h"
#include "engine/run.h"
#include "steps/source.h"

/* --- metadata.c --- */

typedef struct MetadataChange
{
	Jsonb	   *arguments;		/* of the backfill */
	bool		back;			/* take the value away again */
	bool		keep_default;	/* new rows get it from then on */

	/* what came of it */
	int64		rows;			/* that were unset, or had the value */
	int			held_ms;		/* how long nobody else could use the table */
} MetadataChange;

/*
 * Do it, and journal it, in one transaction; outside of any.  Returns NULL, or
 * why it was not possible, with nothing changed.  Raises 55P03 when the locks
 * are not had.
 */
extern char *metadata_change(JobRun *run, MetadataChange *change);

/* For a dry run: the statements, as planned steps */
extern void metadata_plan(const Job *job, const Source *source,
						  bool keep_default);

/* --- metadata_check.c --- */

/*
 * Why the column cannot be dropped and added again, by what the catalogs say
 * now; NULL when it can.  palloc'd.
 */
extern char *metadata_obstacle(const Source *source, bool back);

/* Why that is to be left to the user, although it can; NULL: no reason */
extern char *metadata_reservation(const Source *source);

/* The statement that does it, and the one that gives the column its present
 * default back; and that in a form for a session with any search_path */
typedef struct MetadataTexts
{
	char	   *change;
	char	   *set_default;
	char	   *keep_default;	/* what the default is if it is left */
} MetadataTexts;

extern void metadata_texts(const Source *source, bool back,
						   MetadataTexts *texts);

#endif							/* TENANTMIG_METADATA_H */
