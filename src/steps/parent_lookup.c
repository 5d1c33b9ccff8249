/*
 * parent_lookup.c
 *		The value of a parent by its key, without a query.
 *
 * The fill trigger does this for each row that the application inserts, so it
 * goes to the index of the key itself, as checks of foreign keys may do.  That
 * saves it from becoming the owner, too: only where the server's own functions
 * compare the key, the owner may read all of the parent and no policy says
 * otherwise.  In all other cases a query is run.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/genam.h"
#include "access/nbtree.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/tuptable.h"
#include "parser/parse_coerce.h"
#include "storage/bufmgr.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "engine/compat.h"
#include "steps/parent_lookup.h"

struct ParentLookup
{
	Oid			parent;
	Oid			index;
	AttrNumber	column;
	int16		typlen;
	bool		typbyval;
	int			nkeys;
	struct
	{
		int			position;	/* in the foreign key */
		AttrNumber	attnum;		/* in the parent */
		Oid			subtype;
		Oid			collation;
		int16		typlen;		/* of the child's column */
		bool		typbyval;
		FmgrInfo	equal;
	}			keys[INDEX_MAX_KEYS];
};

/* --- what there is to find out --------------------------------------- */

/* A value that needs no cast to go into the other table */
static bool
has_same_type(const Source *source)
{
	TargetColumn column;

	return target_find_column(source->parent, source->column, &column) &&
		column.type == source->target.type && column.typmod == source->target.typmod;
}

static bool
is_ours_to_read(Relation parent, Oid owner)
{
	return parent->rd_rel->relkind == RELKIND_RELATION &&
		!parent->rd_rel->relrowsecurity &&
		pg_class_aclcheck(RelationGetRelid(parent), owner, ACL_SELECT) == ACLCHECK_OK &&
		namespace_aclcheck(RelationGetNamespace(parent), owner, ACL_USAGE) == ACLCHECK_OK;
}

/* The server's own, which calls nobody else's */
static bool
is_builtin(Oid function)
{
	return OidIsValid(function) && function < FirstNormalObjectId;
}

/* How a column of the index is compared with a key of that type */
static bool
find_comparison(ParentLookup *lookup, Relation index, int i, Oid type,
				MemoryContext context)
{
	Oid			family = index->rd_opfamily[i];
	Oid			input = index->rd_opcintype[i];
	Oid			operator;

	if (IsPolymorphicType(input) && input != ANYENUMOID)
		return false;
	type = getBaseType(type);
	operator = get_opfamily_member(family, input, type, BTEqualStrategyNumber);
	if (!OidIsValid(operator) && IsBinaryCoercible(type, input))
	{
		type = input;
		operator = get_opfamily_member(family, input, type, BTEqualStrategyNumber);
	}
	if (!OidIsValid(operator) || !is_builtin(get_opcode(operator)) ||
		!is_builtin(get_opfamily_proc(family, input, type, BTORDER_PROC)) ||
		!is_builtin(get_opfamily_proc(family, input, input, BTORDER_PROC)))
		return false;
	lookup->keys[i].subtype = type;
	lookup->keys[i].collation = index->rd_indcollation[i];
	fmgr_info_cxt(get_opcode(operator), &lookup->keys[i].equal, context);
	return true;
}

static int
position_of(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
		if (strcmp(lfirst(lc), name) == 0)
			return foreach_current_index(lc);
	return -1;
}

/* Whether the index finds the rows that a foreign key refers to, and how */
static bool
read_index(ParentLookup *lookup, Relation index, const Source *source, Oid child)
{
	Form_pg_index form = index->rd_index;

	if (index->rd_rel->relam != BTREE_AM_OID || !form->indisunique ||
		!form->indisvalid || !form->indimmediate ||
		form->indnkeyatts != list_length(source->parent_columns) ||
		RelationGetIndexExpressions(index) != NIL ||
		RelationGetIndexPredicate(index) != NIL)
		return false;
	lookup->nkeys = form->indnkeyatts;
	for (int i = 0; i < lookup->nkeys; i++)
	{
		AttrNumber	attnum = form->indkey.values[i];
		int			position = position_of(source->parent_columns,
										   get_attname(source->parent, attnum, false));
		const char *child_column;
		AttrNumber	child_attnum;
		Oid			child_type;
		Oid			type;
		int32		typmod;
		Oid			collation;

		if (position < 0)
			return false;
		get_atttypetypmodcoll(source->parent, attnum, &type, &typmod, &collation);
		if (collation != index->rd_indcollation[i])
			return false;
		child_column = list_nth(source->child_columns, position);
		child_attnum = get_attnum(child, child_column);
		if (!AttributeNumberIsValid(child_attnum))
			return false;
		child_type = get_atttype(child, child_attnum);
		get_typlenbyval(child_type, &lookup->keys[i].typlen, &lookup->keys[i].typbyval);
		lookup->keys[i].position = position;
		lookup->keys[i].attnum = attnum;
		if (!find_comparison(lookup, index, i, child_type, CurrentMemoryContext))
			return false;
	}
	lookup->index = RelationGetRelid(index);
	return true;
}

ParentLookup *
parent_lookup_prepare(const Source *source, Oid child, Oid owner)
{
	Relation	parent = table_open(source->parent, AccessShareLock);
	ParentLookup *lookup = palloc0(sizeof(ParentLookup));
	bool		found = false;
	ListCell   *lc;

	lookup->parent = source->parent;
	lookup->column = get_attnum(source->parent, source->column);
	get_typlenbyval(source->target.type, &lookup->typlen, &lookup->typbyval);
	foreach(lc, is_ours_to_read(parent, owner) && has_same_type(source)
			? RelationGetIndexList(parent) : NIL)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		found = read_index(lookup, index, source, child);
		index_close(index, NoLock);
		if (found)
			break;
	}
	table_close(parent, NoLock);
	return found ? lookup : NULL;
}

/* --- a row ----------------------------------------------------------- */

static void
build_keys(const ParentLookup *lookup, const Datum *key, ScanKey keys)
{
	for (int i = 0; i < lookup->nkeys; i++)
		ScanKeyEntryInitializeWithInfo(&keys[i], 0, i + 1, BTEqualStrategyNumber,
									   lookup->keys[i].subtype,
									   lookup->keys[i].collation,
									   unconstify(FmgrInfo *, &lookup->keys[i].equal),
									   key[lookup->keys[i].position]);
}

/* Out of the page, and whole, since it goes into another table */
static Datum
copy_out(const ParentLookup *lookup, Datum value)
{
	if (lookup->typlen == -1)
		return PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	return datumCopy(value, lookup->typbyval, lookup->typlen);
}

/*
 * Where parents were found, by their keys.  A place is only a guess: what is
 * visible there now and has the key is the parent, since the key is unique; in
 * all other cases the index is asked again.  So nothing ever has to be thrown
 * away, and a look at the place costs half of one at the index.
 */
#define KNOWN_PLACES	65536

struct ParentPlaces
{
	ItemPointerData places[KNOWN_PLACES];
};

struct ParentReader
{
	MemoryContext context;		/* of the scan, which keeps things between rows */
	const ParentLookup *lookup;
	ParentPlaces *known;
	Relation	parent;
	Relation	index;
	BlockNumber blocks;			/* of the parent: it may have been cut off */
	TupleTableSlot *slot;
	IndexScanDesc scan;
};

ParentPlaces *
parent_places_make(MemoryContext context)
{
	return MemoryContextAllocZero(context, sizeof(ParentPlaces));
}

ParentReader *
parent_reader_open(const ParentLookup *lookup, ParentPlaces *known)
{
	ParentReader *reader = palloc(sizeof(ParentReader));

	reader->context = CurrentMemoryContext;
	reader->lookup = lookup;
	reader->parent = table_open(lookup->parent, AccessShareLock);
	/* other access methods may have places of another kind */
	reader->known = reader->parent->rd_rel->relam == HEAP_TABLE_AM_OID ? known : NULL;
	reader->index = index_open(lookup->index, AccessShareLock);
	/* asks the system, which is too much for a single row */
	reader->blocks = reader->known ? RelationGetNumberOfBlocks(reader->parent) : 0;
	reader->slot = table_slot_create(reader->parent, NULL);
	reader->scan = index_scan_begin(reader->parent, reader->index,
									GetActiveSnapshot(), lookup->nkeys);
	return reader;
}

static ItemPointer
known_place(ParentReader *reader, const Datum *key)
{
	const ParentLookup *lookup = reader->lookup;
	uint32		hash = 0;

	for (int i = 0; i < lookup->nkeys; i++)
		hash = hash_combine(hash, datum_image_hash(key[lookup->keys[i].position],
												   lookup->keys[i].typbyval,
												   lookup->keys[i].typlen));
	return &reader->known->places[hash % KNOWN_PLACES];
}

static bool
has_key(const ParentLookup *lookup, TupleTableSlot *slot, const Datum *key)
{
	for (int i = 0; i < lookup->nkeys; i++)
	{
		bool		isnull;
		Datum		value = slot_getattr(slot, lookup->keys[i].attnum, &isnull);

		if (isnull ||
			!DatumGetBool(FunctionCall2Coll(unconstify(FmgrInfo *, &lookup->keys[i].equal),
											lookup->keys[i].collation, value,
											key[lookup->keys[i].position])))
			return false;
	}
	return true;
}

/* Into the slot */
static bool
find_parent(ParentReader *reader, const Datum *key)
{
	const ParentLookup *lookup = reader->lookup;
	ItemPointer place = reader->known ? known_place(reader, key) : NULL;
	ScanKeyData keys[INDEX_MAX_KEYS];

	if (place && ItemPointerIsValid(place) &&
		ItemPointerGetBlockNumber(place) < reader->blocks &&
		table_tuple_fetch_row_version(reader->parent, place, GetActiveSnapshot(),
									  reader->slot) &&
		has_key(lookup, reader->slot, key))
		return true;
	build_keys(lookup, key, keys);
	index_rescan(reader->scan, keys, lookup->nkeys, NULL, 0);
	if (!index_getnext_slot(reader->scan, ForwardScanDirection, reader->slot))
		return false;
	if (place)
		*place = reader->slot->tts_tid;
	return true;
}

Datum
parent_reader_value(ParentReader *reader, const Datum *key, bool *isnull)
{
	MemoryContext old = MemoryContextSwitchTo(reader->context);
	bool		found = find_parent(reader, key);
	Datum		value;

	MemoryContextSwitchTo(old);
	*isnull = true;
	if (!found)
		return (Datum) 0;
	value = slot_getattr(reader->slot, reader->lookup->column, isnull);
	return *isnull ? (Datum) 0 : copy_out(reader->lookup, value);
}

void
parent_reader_close(ParentReader *reader)
{
	index_endscan(reader->scan);
	ExecDropSingleTupleTableSlot(reader->slot);
	index_close(reader->index, NoLock);
	table_close(reader->parent, NoLock);
	pfree(reader);
}

Datum
parent_lookup_value(const ParentLookup *lookup, const Datum *key, bool *isnull)
{
	ParentReader *reader;
	Datum		value;

	/* what the statement has done so far is there, too */
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	reader = parent_reader_open(lookup, NULL);
	value = parent_reader_value(reader, key, isnull);
	parent_reader_close(reader);
	PopActiveSnapshot();
	return value;
}
