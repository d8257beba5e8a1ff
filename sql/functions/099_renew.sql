-- Rights on what this installation brought, for the roles that were granted some before.

SELECT qwen_embed.renew_grants();
