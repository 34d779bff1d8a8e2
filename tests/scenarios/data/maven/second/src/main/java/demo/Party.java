package demo;

public final class Party {
    private Party() {}

    public static String invite(String... names) {
        StringBuilder all = new StringBuilder();
        for (String name : names) {
            all.append(Greeting.of(name)).append('\n');
        }
        return all.toString();
    }
}
