package demo;

import static org.junit.Assert.assertEquals;

import org.junit.Test;

public class PartyTest {
    @Test
    public void invitesWithTheGreetingOfTheFirstProject() {
        assertEquals("Hello, a!\nHello, b!\n", Party.invite("a", "b"));
    }
}
