-- For which apps can we certify that nothing changed in the second quarter?
select app_group, region, sdk_app_id, polls_good, polls_failed, changes, source_changes,
       first_good_at, verdict
  from attr_audit.attest('2026-04-01Z', '2026-07-01Z')
 order by app_group, region, sdk_app_id;
