-- What is known of changes beside their rows: look-alikes, moves, declaration and review.
select v.region, v.sdk_app_id, v.seq, v.lookalike, v.moved_from_slot, v.declared, v.verdict,
       v.reviewer, v.ticket, v.reviewed_at
  from unnest(cast(:regions as text[]), cast(:ids as bigint[]), cast(:seqs as bigint[]))
       as u (region, sdk_app_id, seq)
  join attr_audit.changes v
    on v.region = u.region and v.sdk_app_id = u.sdk_app_id and v.seq = u.seq
