-- What 070_rights has just taken from everybody.

SELECT qwen_embed.show_texts();
