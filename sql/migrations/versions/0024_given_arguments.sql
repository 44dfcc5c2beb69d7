-- A question about no name or at no instant is refused. name_in_window(null, …) said "no" of every app that was
-- watched, which means that nobody had the name; names_as_of(null) gave no row, as if no app had been polled by
-- then. What names_as_of did until now is attr_audit_internal.names_at. Where the instant is null the planner sees
-- that no row of it can match and never asks a condition on the instant: hence "union all", and in the variant
-- for text, where the instant is a value of a row, "offset 0". Nothing is rewritten.

create function attr_audit_internal.is_given(value anyelement, what text) returns boolean
    language plpgsql immutable parallel safe as $$
begin
    if value is null then
        raise exception '% must not be null', what using errcode = 'null_value_not_allowed';
    end if;
    return true;
end $$;
comment on function attr_audit_internal.is_given(anyelement, text) is
    'True. Raises an error for an argument that is null, where every answer would mislead.';

create or replace function attr_audit.name_in_window(name text, from_at timestamptz, to_at timestamptz,
                                          app_group text default null)
    returns table (app_group text, region text, sdk_app_id bigint, slots smallint[],
                   certain_pct double precision, possible_pct double precision,
                   blind_seconds double precision, verdict text)
    language sql stable parallel safe
begin atomic
    select p.app_group, p.region, p.sdk_app_id, coalesce(n.slots, '{}'),
           100 * attr_audit_internal.seconds(v.certain) / v.seconds,
           100 * attr_audit_internal.seconds(v.possible) / v.seconds,
           attr_audit_internal.seconds(v.blind),
           case when p.span <@ v.certain and isempty(v.blind) then 'yes'
                when not isempty(v.certain) and p.span <@ v.possible then 'yes, with gaps'
                when not isempty(v.certain) then 'partly'
                when not isempty(v.possible) then 'unknown'
                else 'no' end
      from attr_audit_internal.pieces(name_in_window.from_at, name_in_window.to_at, $4) p
      left join lateral (
           select array_agg(distinct s.slot order by s.slot) as slots,
                  range_agg(p.span * case when s.valid_from < s.certain_to
                                          then tstzrange(s.valid_from, s.certain_to)
                                          else 'empty' end) as certain,
                  range_agg(p.span * tstzrange(least(s.possible_from, s.valid_from), s.valid_to))
                      as possible
             from attr_audit_internal.name_span() s
            where s.region = p.region and s.sdk_app_id = p.sdk_app_id and s.name = $1
              and tstzrange(least(s.possible_from, s.valid_from), s.valid_to) && p.span) n on true
      left join lateral (
           select range_agg(p.span * tstzrange(g.gap_from, g.gap_to)) as blind
             from attr_audit_internal.long_gaps(p.region, p.sdk_app_id, lower(p.span),
                                                upper(p.span)) g) b on true
     cross join lateral (
           select coalesce(n.certain, '{}') as certain,
                  coalesce(n.possible, '{}') + p.unseen as possible,
                  coalesce(b.blind, '{}') + p.unseen as blind,
                  extract(epoch from upper(p.span) - lower(p.span))::double precision as seconds) v
     where attr_audit_internal.is_given($1, 'name');
end;

alter function attr_audit.names_as_of(timestamptz) rename to names_at;
alter function attr_audit.names_at(timestamptz) set schema attr_audit_internal;
comment on function attr_audit_internal.names_at(timestamptz) is
    'The names at an instant, as attr_audit.names_as_of gives them. None where the instant is null.';

create function attr_audit.names_as_of(at timestamptz)
    returns table (region text, sdk_app_id bigint, app_group text, slot smallint, name text,
                   attr_type smallint, certain boolean)
    language sql stable
begin atomic
    select n.region, n.sdk_app_id, n.app_group, n.slot, n.name, n.attr_type, n.certain
      from attr_audit_internal.names_at(names_as_of.at) n
     union all
    -- Never a row, but an error where there is no instant; the planner drops it where there is one.
    select null::text, null::bigint, null::text, null::smallint, null::text, null::smallint, false
     where names_as_of.at is null and attr_audit_internal.is_given(names_as_of.at, 'at');
end;

comment on function attr_audit.names_as_of(timestamptz) is
    'The names last seen at or before the given time, retired apps included. certain is false strictly between the bounds of the slot''s next change (for a baseline: after the app''s prior_ok_at) and after the app''s last_ok_at; on a bound itself it is true. A slot within the bounds of its addition is a row with name null, not certain. There are no rows for an app before its first good poll. An instant that is null is an error. Certain means that the polls on both sides agree: a change that was reverted between two polls cannot be seen.';

create or replace function attr_audit.names_as_of(at text)
    returns table (region text, sdk_app_id bigint, app_group text, slot smallint, name text,
                   attr_type smallint, certain boolean)
    language sql stable
begin atomic
    select n.region, n.sdk_app_id, n.app_group, n.slot, n.name, n.attr_type, n.certain
      from (select names_as_of.at::timestamptz as at
             where attr_audit_internal.is_given(names_as_of.at, 'at') offset 0) t
     cross join lateral attr_audit_internal.names_at(t.at) n;
end;

revoke all on function attr_audit_internal.is_given(anyelement, text),
    attr_audit.names_as_of(timestamptz) from public;
grant execute on function attr_audit_internal.is_given(anyelement, text),
    attr_audit.names_as_of(timestamptz) to attr_audit_writer, attr_audit_reader;
