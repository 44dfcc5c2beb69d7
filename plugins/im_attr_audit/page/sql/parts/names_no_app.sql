(p.region is null or p.sdk_app_id is null)
