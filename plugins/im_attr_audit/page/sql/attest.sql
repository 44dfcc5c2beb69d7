-- Whether anything changed in a window, for every app that was in the group then.
select * from attr_audit.attest(cast(:since as timestamptz), cast(:until as timestamptz), :app_group)
