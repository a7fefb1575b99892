import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.PrintStream;
import java.lang.reflect.Array;
import java.lang.reflect.Field;
import java.lang.reflect.Modifier;
import java.lang.reflect.ParameterizedType;
import java.lang.reflect.Type;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import java.util.concurrent.FutureTask;
import java.util.concurrent.TimeUnit;
import java.util.jar.JarFile;
import java.util.stream.Stream;

/**
 * Writes down what RocketMQ's own decoders make of headers and bodies, for remoting/tests/decoding.rs. scripts/decoders
 * runs it once for each version, with that version's jars as class path.
 *
 * Every field of every class is given every kind of value, one at a time, the others holding usable ones. An outcome is
 * JSON in a string: the value the field has afterwards, "!" where the decoder throws.
 */
public class Decoders {
    static final String[] HEADERS = {
        "AddWritePermOfBrokerRequestHeader", "CloneGroupOffsetRequestHeader", "ConsumeMessageDirectlyResultRequestHeader",
        "ConsumerSendMsgBackRequestHeader", "CreateTopicRequestHeader", "DeleteKVConfigRequestHeader",
        "DeleteSubscriptionGroupRequestHeader", "DeleteTopicFromNamesrvRequestHeader", "DeleteTopicRequestHeader",
        "GetConsumeStatsInBrokerHeader", "GetConsumeStatsRequestHeader", "GetConsumerConnectionListRequestHeader",
        "GetConsumerListByGroupRequestHeader", "GetConsumerRunningInfoRequestHeader", "GetConsumerStatusRequestHeader",
        "GetEarliestMsgStoretimeRequestHeader", "GetEarliestMsgStoretimeResponseHeader", "GetKVConfigRequestHeader",
        "GetKVListByNamespaceRequestHeader", "GetMaxOffsetRequestHeader", "GetMaxOffsetResponseHeader",
        "GetMinOffsetRequestHeader", "GetMinOffsetResponseHeader", "GetProducerConnectionListRequestHeader",
        "GetRouteInfoRequestHeader", "GetSubscriptionGroupConfigRequestHeader", "GetTopicConfigRequestHeader",
        "GetTopicStatsInfoRequestHeader", "GetTopicsByClusterRequestHeader", "NotifyConsumerIdsChangedRequestHeader",
        "PullMessageRequestHeader", "PullMessageResponseHeader", "PutKVConfigRequestHeader",
        "QueryConsumeTimeSpanRequestHeader", "QueryConsumerOffsetRequestHeader", "QueryConsumerOffsetResponseHeader",
        "QueryDataVersionRequestHeader", "QueryMessageRequestHeader", "QueryMessageResponseHeader",
        "QuerySubscriptionByConsumerRequestHeader", "QueryTopicConsumeByWhoRequestHeader",
        "QueryTopicsByConsumerRequestHeader", "RegisterBrokerRequestHeader", "RegisterBrokerResponseHeader",
        "ResetOffsetRequestHeader", "SearchOffsetRequestHeader", "SearchOffsetResponseHeader", "SendMessageRequestHeader",
        "SendMessageRequestHeaderV2", "SendMessageResponseHeader", "UnRegisterBrokerRequestHeader",
        "UnregisterClientRequestHeader", "UpdateConsumerOffsetRequestHeader", "ViewMessageRequestHeader",
        "WipeWritePermOfBrokerRequestHeader",
    };
    static final String[] BODIES = {
        "CheckClientRequestBody", "ClusterInfo", "ConsumeMessageDirectlyResult", "ConsumeStats", "ConsumerConnection",
        "DataVersion", "GetConsumerListByGroupResponseBody", "GetConsumerStatusBody", "GroupList", "HeartbeatData", "KVTable",
        "LockBatchRequestBody", "LockBatchResponseBody", "ProducerConnection", "ProducerTableInfo", "QueryConsumeTimeSpanBody",
        "QuerySubscriptionResponseBody", "RegisterBrokerBody", "ResetOffsetBody", "SubscriptionGroupConfig",
        "SubscriptionGroupList", "SubscriptionGroupWrapper", "TopicConfigSerializeWrapper", "TopicList", "TopicRouteData",
        "TopicStatsTable", "UnlockBatchRequestBody",
    };
    /** Values of a header's field, as texts. */
    static final String[] TEXTS = {
        "", " ", "0", "1", "-1", "+5", "05", "-0", "5 ", " 5", "5.0", "5L", "0x10", "1e3", "1,000", "2147483647", "2147483648",
        "-2147483648", "-2147483649", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
        "9".repeat(30), "\u0665", "\uff15", "true", "TRUE", "True", "false", "tRuE", " true", "true ", "yes", "t", "null", "abc", "NaN", "-",
        "\u0131", "LOWER", "upper", "SINGLE_TAG", "MULTI_TAG", "a\u0001b", "\ud83d\ude00",
    };
    /** Members of a JSON text, as they stand there. */
    static final String[] MEMBERS = {
        "null", "true", "false", "0", "1", "2", "4", "99", "-1", "-0", "5.0", "5.9", "-5.9", "1e3", "1.5e3", "1E400",
        "2147483647", "2147483648", "-2147483649", "4294967296", "4294967301", "9223372036854775807", "9223372036854775808", "1" + "0".repeat(30), "05", "+5", "5L",
        ".5", "5.", "0x10", "NaN", "-", "\"\"", "\" \"", "\"0\"", "\"1\"", "\"2\"", "\"-1\"", "\"+5\"", "\"05\"", "\"5 \"", "\" 5\"", "\"5.0\"", "\"5.9\"",
        "\"5L\"", "\"1e3\"", "\"1,000\"", "\"2147483648\"", "\"9223372036854775808\"", "\"0x10\"", "\"\u0665\"", "\"true\"", "\"TRUE\"", "\"True\"", "\"tRuE\"", "\"false\"",
        "\"FALSE\"", "\"Y\"", "\"N\"", "\"T\"", "\"F\"", "\"yes\"", "\"on\"", "\" true\"", "\"null\"", "\"NULL\"", "\"abc\"", "\"a\\u0041\\n\\/\\\"\"",
        "\"\\u00\"", "\"\\x41\"", "\"\\q\"", "\"\\ud83d\\ude00\"", "\"\\ud83d\"", "'a'", "'5'", "'a\\'b'", "'a\"b'", "abc", "undefined", "TRUE", "nul",
        "\"CONSUME_PASSIVELY\"", "\"consume_passively\"", "\"CONSUME_ACTIVELY\"", "\"CLUSTERING\"", "\"BROADCASTING\"",
        "\"CONSUME_FROM_FIRST_OFFSET\"", "\"MULTI_TAG\"", "\"GO\"", "\"JAVA\"", "\"go\"", "{}", "[]", "{\"a\":1}", "{\"a\":null}", "{\"a\":\"b\"}",
        "{a:1}", "{'a':1}", "{1:2}", "{\"1\":\"2\"}", "{\"a\":{\"b\":1}}", "{\"a\":[1]}", "{\"a\":[\"b\"]}", "{\"a\":true}", "{\"name\":\"GO\"}", "[null]", "[1]", "[\"1\"]", "[true]", "[1,2,1]",
        "[\"a\",\"b\"]", "[\"a\",null,1,true,1.5]", "[[1]]", "[{}]", "[\"abc\"]", "[1.5]", "[2147483648]", "[1,]", "[,1]", "[1 2]", "{\"a\":1,}", "{,\"a\":1}", "\"{}\"", "\"[]\"", "\"[1]\"", "\"[\\\"a\\\"]\"", "\"{\\\"a\\\":1}\"",
        "\"a,b\"", "{\"groupName\":\"g\"}", "{\"topic\":\"t\",\"queueId\":1,\"brokerName\":\"b\"}", "[{\"topic\":\"t\",\"queueId\":\"1\"}]",
        "{{\"topic\":\"t\",\"queueId\":1}:5}", "{\"{\\\"topic\\\":\\\"t\\\",\\\"queueId\\\":1}\":5}", "{\"b\":5}", "{\"@type\":\"java.lang.Object\"}",
    };
    /** Whole JSON texts: each is read as a header and, where it is one, as the body BASE. %s is `"code":11`. */
    static final String[] SHAPES = {
        "{%s}", " {%s} ", "\n\t{\r%s }", "\u00a0{%s}", "\ufeff{%s}", "{%s}\u0000", "{%s}x", "{%s}}", "{%s} {}", "{%s},", "[{%s}]", "[]", "", " ", "null", "{}", "\"\"", "1",
        "{%s", "{%s,", "{%s,}", "{,%s}", "{%s,,\"x\":1}", "{%s;}", "{/*c*/%s}", "{//c\n%s}", "/*c*/{%s}", "{#c\n%s}", "{%s/*c*/}", "{%s,\"x\" : /*c*/ 1}",
        "{%s,x:1}", "{%s,'x':1}", "{%s,\"x\":'1'}", "{%s,x y:1}", "{%s,\"x\"1}", "{%s,\"x\":}", "{%s,\"x\"}", "{%s,\"x\"=1}", "{%s,1:1}", "{%s,null:1}", "{%s,true:1}", "{%s,\"\":1}", "{%s,{}:1}", "{%s,[]:1}", "{%s,{\"a\":1}:1}", "{%s,-1:1}", "{%s,1.5:1}",
        "{%s,\"x\":undefined}", "{%s,\"x\":NaN}", "{%s,\"x\":new Date(0)}", "{%s,\"x\":Set[1]}", "{%s,\"x\":TreeSet[1]}", "{%s,\"x\":x'41'}", "{%s,\"x\":01}", "{%s,\"x\":1.}", "{%s,\"x\":.1}", "{%s,\"x\":1L}", "{%s,\"x\":1e}", "{%s,\"x\":--1}", "{%s,\"x\":True}", "{%s,\"x\":y}",
        "{%s,\"x\":\"\u0001\"}", "{%s,\"x\":\"\n\"}", "{%s,\"x\":\"\\x41\"}", "{%s,\"x\":\"\\v\\0\\7\\'\"}", "{%s,\"x\":\"\\q\"}", "{%s,\"x\":\"\\u12\"}", "{%s,\"x\":\"\\u12G4\"}", "{%s,\"x\":\"\\ud800\"}", "{%s,\"x\":\"",
        "{%s,\"x\":[}", "{%s,\"x\":{\"a\":[{\"b\":[1,2,{}]}]}}", "{%s,\"@type\":\"java.lang.Object\"}", "{\"@type\":\"java.lang.Object\",%s}", "{\"$ref\":\"$\",%s}", "{%s,\"x\":{\"$ref\":\"$\"}}", "{%s,\"x\":{\"@type\":\"java.lang.String\"}}",
    };
    /** Ways to name a member. */
    static final String[] NAMES = {
        "\"code\"", "code", "'code'", "\"Code\"", "\"CODE\"", "\"co_de\"", "\"co-de\"", "\"_code\"", "\"code \"", "\" code\"", "\"c\\u006fde\"", "\"iscode\"", "\"isCode\"", " code ", "\"opaque\":5,\"code\"",
        "\"code\":7,\"code\"", "\"code\":7,\"code\":null,\"x\"", "\"co\\de\"",
    };
    static final String[] COMMAND = {"code", "language", "version", "flag", "remark", "extFields"};
    static final String USUAL =
        "\"code\":11,\"language\":\"CPP\",\"version\":63,\"opaque\":3,\"flag\":0,\"remark\":\"r\",\"extFields\":{\"a\":\"b\"}";

    /** A decoder that takes longer has lost its way. */
    static final long HANGS_MS = 1000;

    /** Outcomes of a field, most of which are like another field's of the same type; fields name theirs by index. */
    static final List<List<String>> ROWS = new ArrayList<>();

    static final Map<String, Class<?>> CLASSES = new HashMap<>();
    static Class<?> notNull;
    static Class<?> command;

    public static void main(String[] args) throws Exception {
        PrintStream out = new PrintStream(System.out, false, StandardCharsets.UTF_8);
        // Both fastjson and the decoders write about what they do not like.
        System.setOut(new PrintStream(new ByteArrayOutputStream()));
        findClasses();
        command = CLASSES.get("RemotingCommand");
        notNull = CLASSES.get("CFNotNull");
        Map<String, Object> all = new LinkedHashMap<>();
        all.put("texts", TEXTS);
        all.put("members", MEMBERS);
        all.put("header", commandOutcomes());
        all.put("shapes", shapes());
        all.put("binary", binary());
        all.put("badUtf8", badUtf8());
        all.put("headers", headers());
        all.put("bodies", bodies());
        all.put("rows", ROWS.stream().map(List::toArray).toArray());
        write(out, all, 0);
        out.println();
        out.flush();
    }

    static void findClasses() throws Exception {
        for (String path : System.getProperty("java.class.path").split(File.pathSeparator)) {
            if (!new File(path).getName().matches("rocketmq-(common|remoting)-.*\\.jar")) {
                continue;
            }
            try (JarFile jar = new JarFile(path)) {
                for (var entry : (Iterable<java.util.jar.JarEntry>) jar.stream()::iterator) {
                    String name = entry.getName();
                    if (name.endsWith(".class") && !name.contains("$")) {
                        String full = name.substring(0, name.length() - 6).replace('/', '.');
                        String simple = full.substring(full.lastIndexOf('.') + 1);
                        if (simple.equals("RemotingCommand") || simple.equals("CFNotNull")
                            || Arrays.asList(HEADERS).contains(simple) || Arrays.asList(BODIES).contains(simple)) {
                            CLASSES.put(simple, Class.forName(full));
                        }
                    }
                }
            }
        }
    }

    // The command itself.

    static Object decodeHeader(byte[] header, int serialization) throws Exception {
        ByteBuffer frame = ByteBuffer.allocate(header.length + 4);
        frame.putInt(header.length | serialization << 24).put(header).flip();
        return command.getMethod("decode", ByteBuffer.class).invoke(null, frame);
    }

    static String commandOutcome(byte[] header, int serialization, String... fields) {
        try {
            Object decoded = decodeHeader(header, serialization);
            if (decoded == null) {
                return "!";
            }
            Map<String, Object> found = new LinkedHashMap<>();
            for (String field : fields) {
                found.put(field, get(decoded, field));
            }
            return fields.length == 1 ? json(found.get(fields[0])) : json(found);
        } catch (Throwable e) {
            return "!";
        }
    }

    /** Each member of the header with each kind of value; `ext` is a member of extFields. */
    static Object commandOutcomes() {
        Map<String, Object> all = new LinkedHashMap<>();
        for (String field : COMMAND) {
            all.put(field, Arrays.stream(MEMBERS).map(member -> {
                String header = USUAL.replaceFirst("\"" + field + "\":(\\{.*?\\}|[^,]*)", "\"" + field + "\":" + quote(member));
                return commandOutcome(utf8("{" + header + "}"), 0, field);
            }).toArray());
        }
        all.put("ext", Arrays.stream(MEMBERS)
            .map(member -> commandOutcome(utf8("{\"code\":11,\"extFields\":{\"k\":" + member + "}}"), 0, "extFields")).toArray());
        all.put("absent", commandOutcome(utf8("{}"), 0, "code", "language", "version", "flag", "remark", "extFields"));
        return all;
    }

    static String quote(String replacement) {
        return java.util.regex.Matcher.quoteReplacement(replacement);
    }

    static Object shapes() {
        List<Object> all = new ArrayList<>();
        for (String shape : SHAPES) {
            byte[] text = utf8(shape.replace("%s", "\"code\":11"));
            all.add(List.of(new String(text, StandardCharsets.UTF_8), commandOutcome(text, 0, "code")));
        }
        for (String name : NAMES) {
            String text = "{" + name + ":11}";
            all.add(List.of(text, commandOutcome(utf8(text), 0, "code")));
        }
        return all;
    }

    /** Binary headers in hexadecimal: one that is right, and that with each byte changed in several ways. */
    static Object binary() {
        byte[] good = bytes(0, 14, 9, 1, 61, 0, 0, 0, 9, 0, 0, 0, 2, 0, 0, 0, 1, 'r', 0, 0, 0, 15, 0, 1, 'k', 0, 0, 0, 1, 'v', 0, 1, 'e', 0, 0, 0, 0);
        List<byte[]> variants = new ArrayList<>();
        variants.add(good);
        for (int at = 0; at < good.length; at++) {
            for (int value : new int[] {0, 0x7f, 0x80, 0xff}) {
                byte[] changed = good.clone();
                changed[at] = (byte) value;
                variants.add(changed);
            }
        }
        for (int cut = 0; cut < good.length; cut++) {
            variants.add(Arrays.copyOf(good, cut));
        }
        variants.add(Arrays.copyOf(good, good.length + 3));
        return inHex(variants, 1);
    }

    /** JSON headers with bytes that are no UTF-8. */
    static Object badUtf8() {
        List<byte[]> variants = new ArrayList<>();
        for (int[] bad : new int[][] {{0xff}, {0xc3}, {0xc3, 'x'}, {0xe2, 0x82}, {0xe2, 0x82, 'x'}, {0xc0, 0x80}, {0xd6, 0xd0, 0xce, 0xc4}, {0xf0, 0x9f, 0x98}}) {
            String text = "{\"code\":11,\"remark\":\"r%\",\"extFields\":{\"k\":\"v%\"}}";
            StringBuilder raw = new StringBuilder();
            for (int b : bad) {
                raw.append((char) b);
            }
            variants.add(text.replace("%", raw).getBytes(StandardCharsets.ISO_8859_1));
        }
        return inHex(variants, 0);
    }

    static Object inHex(List<byte[]> headers, int serialization) {
        List<Object> all = new ArrayList<>();
        for (byte[] header : headers) {
            StringBuilder hex = new StringBuilder();
            for (byte b : header) {
                hex.append(String.format("%02x", b));
            }
            all.add(List.of(hex.toString(), commandOutcome(header, serialization, "code", "language", "version", "flag", "remark", "extFields")));
        }
        return all;
    }

    static byte[] bytes(int... values) {
        byte[] all = new byte[values.length];
        for (int at = 0; at < values.length; at++) {
            all[at] = (byte) values[at];
        }
        return all;
    }

    static int row(Stream<String> outcomes) {
        List<String> row = outcomes.toList();
        if (!ROWS.contains(row)) {
            ROWS.add(row);
        }
        return ROWS.indexOf(row);
    }

    // Custom headers.

    static Object headers() throws Exception {
        Map<String, Object> all = new LinkedHashMap<>();
        for (String name : HEADERS) {
            Class<?> type = CLASSES.get(name);
            if (type == null) {
                continue;
            }
            Map<String, String> base = new LinkedHashMap<>();
            List<Field> fields = declared(type);
            for (Field field : fields) {
                base.put(field.getName(), usualText(field));
            }
            Map<String, Object> outcomes = new LinkedHashMap<>();
            for (Field field : fields) {
                Map<String, Object> one = new LinkedHashMap<>();
                one.put("type", field.getType().getSimpleName());
                one.put("notNull", field.isAnnotationPresent(notNull.asSubclass(java.lang.annotation.Annotation.class)));
                one.put("absent", headerOutcome(type, base, field, null));
                one.put("outcomes", row(Arrays.stream(TEXTS).map(text -> headerOutcome(type, base, field, text))));
                outcomes.put(field.getName(), one);
            }
            all.put(name, Map.of("base", base, "fields", outcomes));
        }
        return all;
    }

    static String usualText(Field field) {
        String type = field.getType().getSimpleName();
        if (field.getName().equals("topicFilterType")) {
            return "SINGLE_TAG";
        }
        return switch (type) {
            case "String" -> "x";
            case "boolean", "Boolean" -> "true";
            case "BoundaryType" -> "UPPER";
            default -> "3";
        };
    }

    static String headerOutcome(Class<?> type, Map<String, String> base, Field field, String text) {
        try {
            HashMap<String, String> ext = new HashMap<>(base);
            ext.remove(field.getName());
            if (text != null) {
                ext.put(field.getName(), text);
            }
            var constructor = command.getDeclaredConstructor();
            constructor.setAccessible(true);
            Object request = constructor.newInstance();
            command.getMethod("setExtFields", HashMap.class).invoke(request, ext);
            Object header = command.getMethod("decodeCommandCustomHeader", Class.class).invoke(request, type);
            return json(field.get(header));
        } catch (Throwable e) {
            return "!";
        }
    }

    // Bodies.

    static Object bodies() throws Exception {
        Map<String, Object> all = new LinkedHashMap<>();
        for (String name : BODIES) {
            Class<?> type = CLASSES.get(name);
            if (type == null) {
                continue;
            }
            decodeBody(bodyText(type, null, 0, null), type);
            List<List<String>> paths = new ArrayList<>();
            paths(type, new ArrayList<>(), paths);
            Map<String, Object> outcomes = new LinkedHashMap<>();
            for (List<String> path : paths) {
                Map<String, Object> one = new LinkedHashMap<>();
                one.put("absent", bodyOutcome(type, path, ""));
                one.put("outcomes", row(Arrays.stream(MEMBERS).map(member -> bodyOutcome(type, path, member))));
                outcomes.put(String.join("/", path), one);
            }
            // A control character stands where the member goes; an absent one takes its name along.
            Map<String, Object> texts = new LinkedHashMap<>();
            for (List<String> path : paths) {
                texts.put(String.join("/", path), bodyText(type, path, 0, "\u0001"));
            }
            all.put(name, Map.of("texts", texts, "fields", outcomes));
        }
        return all;
    }

    static String bodyOutcome(Class<?> type, List<String> path, String member) {
        try {
            Object at = inTime(() -> decodeBody(bodyText(type, path, 0, member), type));
            for (String step : path) {
                at = step(at, step);
            }
            return json(at);
        } catch (Throwable e) {
            return "!";
        }
    }

    static Object decodeBody(String text, Class<?> type) throws Exception {
        String serializable = command.getName().replace("RemotingCommand", "RemotingSerializable");
        return Class.forName(serializable).getMethod("decode", byte[].class, Class.class).invoke(null, utf8(text), type);
    }

    /** The decoder's result; of 5.4.0 some bad texts are read without end. */
    @SuppressWarnings({"deprecation", "removal"})
    static Object inTime(Callable<Object> decode) throws Exception {
        FutureTask<Object> task = new FutureTask<>(decode);
        Thread thread = new Thread(task);
        thread.start();
        try {
            return task.get(HANGS_MS, TimeUnit.MILLISECONDS);
        } finally {
            thread.stop();
        }
    }

    static Object step(Object from, String step) throws Exception {
        if (from == null) {
            return null;
        }
        if (from instanceof Map<?, ?> map) {
            return map.isEmpty() ? null : map.values().iterator().next();
        }
        if (from instanceof Collection<?> list) {
            return list.isEmpty() ? null : list.iterator().next();
        }
        return get(from, step);
    }

    /** The JSON of a usual value of `type`, with `member` at `path`; without the whole member where that is empty. */
    static String bodyText(Type type, List<String> path, int depth, String member) {
        if (path != null && depth == path.size()) {
            return member;
        }
        List<String> below = path;
        if (type instanceof ParameterizedType parameterized) {
            Type[] arguments = parameterized.getActualTypeArguments();
            Class<?> raw = (Class<?>) parameterized.getRawType();
            if (Map.class.isAssignableFrom(raw)) {
                String value = bodyText(arguments[1], below, depth + 1, member);
                return value.isEmpty() ? "{}" : "{" + keyText(arguments[0]) + ":" + value + "}";
            }
            if (Collection.class.isAssignableFrom(raw)) {
                return "[" + bodyText(arguments[0], below, depth + 1, member) + "]";
            }
        }
        Class<?> raw = raw(type);
        if (raw.isArray()) {
            return "[" + bodyText(raw.getComponentType(), null, depth + 1, member) + "]";
        }
        if (raw.isEnum()) {
            return "\"" + ((Enum<?>) raw.getEnumConstants()[0]).name() + "\"";
        }
        switch (raw.getSimpleName()) {
            case "String":
                return "\"x\"";
            case "int", "Integer", "long", "Long", "AtomicLong":
                return "3";
            case "double", "Double":
                return "1.5";
            case "boolean", "Boolean":
                return "true";
            default:
                break;
        }
        StringBuilder text = new StringBuilder("{");
        for (Field field : fields(raw)) {
            boolean onPath = path != null && field.getName().equals(path.get(depth));
            String value = bodyText(field.getGenericType(), onPath ? path : null, depth + 1, member);
            if (!value.isEmpty()) {
                text.append(text.length() > 1 ? "," : "").append('"').append(field.getName()).append("\":").append(value);
            }
        }
        return text.append('}').toString();
    }

    static String keyText(Type type) {
        return switch (raw(type).getSimpleName()) {
            case "Long", "Integer" -> "3";
            case "MessageQueue" -> "{\"brokerName\":\"b\",\"queueId\":1,\"topic\":\"t\"}";
            default -> "\"k\"";
        };
    }

    static void paths(Type type, List<String> path, List<List<String>> out) {
        if (!path.isEmpty()) {
            out.add(new ArrayList<>(path));
        }
        if (type instanceof ParameterizedType parameterized) {
            Type[] arguments = parameterized.getActualTypeArguments();
            path.add("*");
            paths(arguments[arguments.length - 1], path, out);
            path.remove(path.size() - 1);
            return;
        }
        Class<?> raw = raw(type);
        if (raw.isEnum() || raw.isArray() || raw.getName().startsWith("java.") || raw.isPrimitive()) {
            return;
        }
        for (Field field : fields(raw)) {
            path.add(field.getName());
            paths(field.getGenericType(), path, out);
            path.remove(path.size() - 1);
        }
    }

    static Class<?> raw(Type type) {
        return (Class<?>) (type instanceof ParameterizedType parameterized ? parameterized.getRawType() : type);
    }

    // Objects as JSON.

    /** Fields that a body's decoder sets. */
    static List<Field> fields(Class<?> type) {
        List<Field> all = declared(type);
        all.removeIf(field -> !hasSetter(type, field));
        return all;
    }

    static List<Field> declared(Class<?> type) {
        List<Field> all = new ArrayList<>();
        for (Class<?> at = type; at != null && at != Object.class; at = at.getSuperclass()) {
            for (Field field : at.getDeclaredFields()) {
                if (!Modifier.isStatic(field.getModifiers()) && !Modifier.isTransient(field.getModifiers())
                    && !field.getName().startsWith("this")) {
                    field.setAccessible(true);
                    all.add(field);
                }
            }
        }
        return all;
    }

    static boolean hasSetter(Class<?> type, Field field) {
        String name = field.getName();
        return Arrays.stream(type.getMethods()).anyMatch(method -> method.getName().equalsIgnoreCase("set" + name)
            || (Map.class.isAssignableFrom(field.getType()) || Collection.class.isAssignableFrom(field.getType()))
                && method.getName().equalsIgnoreCase("get" + name));
    }

    static Object get(Object from, String name) throws Exception {
        for (Class<?> at = from.getClass(); at != Object.class; at = at.getSuperclass()) {
            for (Field field : at.getDeclaredFields()) {
                if (field.getName().equals(name)) {
                    field.setAccessible(true);
                    return field.get(from);
                }
            }
        }
        throw new IllegalStateException(name);
    }

    static String json(Object value) throws Exception {
        if (value == null || value instanceof Boolean) {
            return String.valueOf(value);
        }
        if (value instanceof Long time && Math.abs(time - System.currentTimeMillis()) < 86_400_000) {
            return "\"now\"";
        }
        if (value instanceof Number || value instanceof java.util.concurrent.atomic.AtomicLong) {
            String text = value.toString();
            return text.contains("N") || text.contains("Inf") ? "\"" + text + "\"" : text;
        }
        if (value instanceof Collection<?> list) {
            List<String> all = new ArrayList<>();
            for (Object element : list) {
                all.add(json(element));
            }
            if (!(value instanceof List)) {
                all.sort(null);
            }
            return "[" + String.join(",", all) + "]";
        }
        if (value.getClass().isArray()) {
            List<Object> all = new ArrayList<>();
            for (int at = 0; at < Array.getLength(value); at++) {
                all.add(Array.get(value, at));
            }
            return json(all);
        }
        if (value instanceof Map<?, ?> map) {
            TreeMap<String, String> all = new TreeMap<>();
            for (var entry : map.entrySet()) {
                Object key = entry.getKey();
                boolean plain = key == null || key instanceof String || key instanceof Number;
                all.put(plain ? String.valueOf(key) : json(key), json(entry.getValue()));
            }
            return object(all);
        }
        if (value.getClass().isEnum() || value instanceof Enum) {
            return string(((Enum<?>) value).name());
        }
        if (value.getClass().getName().startsWith("org.apache.rocketmq.")) {
            TreeMap<String, String> all = new TreeMap<>();
            for (Field field : fields(value.getClass())) {
                all.put(field.getName(), json(field.get(value)));
            }
            return object(all);
        }
        return string(value.toString());
    }

    static String object(Map<String, String> members) {
        StringBuilder out = new StringBuilder("{");
        members.forEach((key, value) -> out.append(out.length() > 1 ? "," : "").append(string(key)).append(':').append(value));
        return out.append('}').toString();
    }

    static String string(String text) {
        StringBuilder out = new StringBuilder("\"");
        for (int at = 0; at < text.length(); at++) {
            char c = text.charAt(at);
            if (c == '"' || c == '\\') {
                out.append('\\').append(c);
            } else if (c < ' ' || c > '~' && !(Character.isSurrogate(c))) {
                out.append(String.format("\\u%04x", (int) c));
            } else if (Character.isHighSurrogate(c) && at + 1 < text.length() && Character.isLowSurrogate(text.charAt(at + 1))) {
                out.append(c).append(text.charAt(++at));
            } else if (Character.isSurrogate(c)) {
                out.append("\\ufffd");
            } else {
                out.append(c);
            }
        }
        return out.append('"').toString();
    }

    static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    /** Outer objects over several lines, so that a change shows where it is. */
    static void write(PrintStream out, Object value, int depth) throws Exception {
        if (!(value instanceof Map<?, ?> map) || depth > 2) {
            out.print(value instanceof Map<?, ?> map ? object(texts(map)) : json(value));
            return;
        }
        out.print("{");
        String separator = "\n";
        for (var entry : map.entrySet()) {
            out.print(separator + string((String) entry.getKey()) + ":");
            write(out, entry.getValue(), depth + 1);
            separator = ",\n";
        }
        out.print("}");
    }

    static Map<String, String> texts(Map<?, ?> map) throws Exception {
        Map<String, String> all = new LinkedHashMap<>();
        for (var entry : map.entrySet()) {
            Object value = entry.getValue();
            all.put((String) entry.getKey(), value instanceof Map<?, ?> inner ? object(texts(inner)) : json(value));
        }
        return all;
    }
}
