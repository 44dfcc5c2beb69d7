-- Where each checkpoint was written, as `im-attr-audit checkpoint` reports it. A seal is committed before a
-- witness has it and is never updated, so this is a table of its own.

create table attr_audit.witnessed (
    origin       text not null,
    size         bigint not null,
    target       text not null,
    witnessed_at timestamptz not null default clock_timestamp(),
    primary key (origin, size, target),
    constraint size_counts_from_1 check (size >= 1)
);
comment on table attr_audit.witnessed is
    'The witnesses that each run of `im-attr-audit checkpoint` wrote to, as it reported. Append-only. What a witness has is in its files.';
comment on column attr_audit.witnessed.origin is 'The name of the log and of its key.';
comment on column attr_audit.witnessed.size is
    'The witness had the checkpoints of 1 to this many seals.';
comment on column attr_audit.witnessed.target is 'The witness, as it was given to `--to`.';
comment on column attr_audit.witnessed.witnessed_at is 'When the database recorded the row.';

create trigger append_only before update or delete or truncate on attr_audit.witnessed
    for each statement execute function attr_audit_internal.refuse_rewriting();

grant select on attr_audit.witnessed to attr_audit_writer, attr_audit_reader, attr_audit_sealer;
grant insert (origin, size, target) on attr_audit.witnessed to attr_audit_sealer;
