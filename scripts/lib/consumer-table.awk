# The Markdown table of scripts/consumer-compat: results (files named BROKER-CLIENT.tsv) first, then the points.
# -v java=VERSION names the Java broker, -v clients="A B ..." the clients in their order. A cell says what came of a point
# on both brokers, or "RaftMQ / RocketMQ" where that differs.
BEGIN {
  clients_count = split(clients, client_of, " ")
  names["go"] = "Go 2.1.2"; names["python"] = "C++ 1.x<br>(Python 0.4.4)"
  names["node"] = "Node.js<br>(ali-ons 3.12.0)"; names["spring"] = "Spring 2.3.5<br>(Java 5.3.2)"
  brokers["raftmq"] = "RaftMQ"; brokers["java"] = "RocketMQ " java
  head = "| |"; rule = "|---|"
  for (i = 1; i <= clients_count; i++) {
    if (!(client_of[i] in names)) names[client_of[i]] = "Java " client_of[i]
    head = head " " names[client_of[i]] " |"
    rule = rule ":-:|"
  }
}

# has: whether a list of the points names a client
function has(list, client) {
  list = "," list ","
  if (client ~ /^[0-9]/) return index(list, ",java,") || (client !~ /^[0-4]\./ && index(list, ",java5,"))
  return index(list, "," client ",")
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
  for (i = 1; i <= clients_count; i++) {
    ours = cell("raftmq", client_of[i])
    theirs = cell("java", client_of[i])
    row = row " " (ours == theirs ? ours : ours " / " theirs) " |"
  }
  print row
}

# cell: what came of the point at hand
function cell(broker, client,    column, s, where) {
  column = broker "-" client
  if (!has($2, client) || !index("," $3 ",", "," broker ",")) return "–" note($6)
  total[column]++
  s = status[column, $1]
  if (s == "failed") return "**failed**" note(detail[column, $1])
  if (s != "ok") return "not run"
  ok[column]++
  where = names[client] " on " brokers[broker]
  gsub(/<br>/, " ", where)
  if ($4 == "yes") measured[++measures] = "| " $5 " | " where " | " detail[column, $1] " |"
  return "ok"
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
  count("raftmq")
  count("java")
  if (notes) print ""
  for (i = 1; i <= notes; i++) print i ". " texts[i]
  if (measures) print "\n### Measured\n| | where | what was seen |\n|---|---|---|"
  for (i = 1; i <= measures; i++) print measured[i]
}

# count: the row of how many points were ok
function count(broker,    i, column, row) {
  row = "| points ok on " brokers[broker] ", of those asked |"
  for (i = 1; i <= clients_count; i++) {
    column = broker "-" client_of[i]
    row = row " " (ok[column] + 0) " / " (total[column] + 0) " |"
  }
  print row
}
