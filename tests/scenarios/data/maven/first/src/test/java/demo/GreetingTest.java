package demo;

import static org.junit.Assert.assertEquals;

import org.junit.Test;

public class GreetingTest {
    @Test
    public void greets() {
        assertEquals("Hello, world!", Greeting.of("world"));
    }
}
