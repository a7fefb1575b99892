# shellcheck shell=bash
# What the scripts that run Java share: the tools they need, RocketMQ's libraries, mqadmin.
# Sourced, not run; expects `set -euo pipefail` and $root, the repository.

# JDK 17 closes packages that RocketMQ's servers and tools reach into (mapped buffers, reflection).
java_opens=(
  --add-opens=java.base/java.lang=ALL-UNNAMED
  --add-opens=java.base/java.lang.reflect=ALL-UNNAMED
  --add-opens=java.base/java.nio=ALL-UNNAMED
  --add-opens=java.base/sun.nio.ch=ALL-UNNAMED
  --add-opens=java.base/jdk.internal.ref=ALL-UNNAMED
  --add-exports=java.base/jdk.internal.ref=ALL-UNNAMED
  --add-exports=java.base/sun.nio.ch=ALL-UNNAMED
)

# shellcheck source=scripts/lib/common.sh
source "$root/scripts/lib/common.sh"

need_java() {
  local tool
  for tool in java mvn; do
    command -v "$tool" >/dev/null || die "'$tool' not found: this script needs a JDK (17 or newer) and Maven"
  done
  local major
  major=$(java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -1)
  ((${major:-0} >= 17)) || die "Java 17 or newer needed, 'java' is ${major:-of an unknown version}"
}

# write_logback HOME: RocketMQ's servers and tools look for a file of their own below HOME/conf and stop without it
write_logback() {
  local name
  mkdir -p "$1/conf"
  for name in namesrv broker tools; do
    cat >"$1/conf/logback_$name.xml" <<'XML'
<configuration>
  <appender name="console" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d %p %c{0} %m%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="console"/></root>
</configuration>
XML
  done
  # the tools of 4.4 stop without this one, too
  echo "accessKey: ''" >"$1/conf/tools.yml"
}

# mqadmin LIB HOME COMMAND...: the tool of the version whose jars are in LIB; its logs and settings go below HOME
mqadmin() {
  local lib=$1 home=$2
  shift 2
  timeout --kill-after=5 60 java "${java_opens[@]}" -Duser.home="$home" -Drocketmq.home.dir="$home" \
    -cp "$lib/*" org.apache.rocketmq.tools.command.MQAdminStartup "$@" 2>&1
}
