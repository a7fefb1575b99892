# The Markdown table of scripts/consumer-compat: results (files named BROKER-CLIENT.tsv) first, then the points.
# -v java=VERSION names the Java broker.
BEGIN {
  split("raftmq-4.9.7 raftmq-5.4.0 raftmq-go java-4.9.7 java-5.4.0 java-go", columns, " ")
  names["4.9.7"] = "Java 4.9.7"; names["5.4.0"] = "Java 5.4.0"; names["go"] = "Go 2.1.2"
  brokers["raftmq"] = "RaftMQ"; brokers["java"] = "RocketMQ " java
  head = "| |"; rule = "|---|"
  for (i = 1; i <= 6; i++) {
    broker_of[i] = columns[i]; sub(/-.*/, "", broker_of[i])
    client_of[i] = columns[i]; sub(/^[a-z]*-/, "", client_of[i])
    title[i] = names[client_of[i]] " on " brokers[broker_of[i]]
    head = head " " names[client_of[i]] "<br>" brokers[broker_of[i]] " |"
    rule = rule ":-:|"
  }
}

FILENAME !~ /points\.tsv$/ {
  column = FILENAME
  sub(/.*\//, "", column); sub(/\.tsv$/, "", column)
  status[column, $1] = $2
  detail[column, $1] = $4
  next
}

/^## / {
  printf "%s### %s\n%s\n%s\n", (begun ? "\n" : ""), substr($0, 4), head, rule
  begun = 1
  next
}

/^#/ || !NF { next }

{
  row = "| " $5 " |"
  for (i = 1; i <= 6; i++) {
    asked = index("," $2 ",", "," client_of[i] ",") && index("," $3 ",", "," broker_of[i] ",")
    s = status[columns[i], $1]
    if (!asked) cell = "–" note($6)
    else if (s == "ok") { cell = "ok"; ok[i]++ }
    else if (s == "failed") cell = "**failed**" note(detail[columns[i], $1])
    else cell = "not run"
    total[i] += asked
    row = row " " cell " |"
    if ($4 == "yes" && s == "ok") measured[++measures] = "| " $5 " | " title[i] " | " detail[columns[i], $1] " |"
  }
  print row
}

# note: the mark of a footnote; equal texts share one
function note(text) {
  if (text == "") return ""
  if (!(text in numbers)) { numbers[text] = ++notes; texts[notes] = text }
  return " <sup>" numbers[text] "</sup>"
}

END {
  print "\n### In all"
  print head
  print rule
  row = "| points ok, of those asked |"
  for (i = 1; i <= 6; i++) row = row " " (ok[i] + 0) " / " total[i] " |"
  print row
  if (notes) print ""
  for (i = 1; i <= notes; i++) print i ". " texts[i]
  if (measures) print "\n### Measured\n| | where | what was seen |\n|---|---|---|"
  for (i = 1; i <= measures; i++) print measured[i]
}
