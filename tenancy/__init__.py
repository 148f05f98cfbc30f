"""Projects, members, datasets, shares, policy, certificates, ACLs, quotas and audit."""
